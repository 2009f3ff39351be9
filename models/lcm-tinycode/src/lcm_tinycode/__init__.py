"""The files of a small Python code model, in this folder; `lcm.load_model("tinycode")` reads them."""
