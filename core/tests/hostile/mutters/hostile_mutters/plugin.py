print("libfoo.so.7: no such device")
raise OSError("cannot start")
