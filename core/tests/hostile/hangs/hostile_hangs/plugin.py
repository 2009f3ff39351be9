import subprocess
import sys
import time
from pathlib import Path

# A child of its own, which must not outlive the attempt: it would leave this file behind.
left = str(Path(__file__).with_name("outlived"))
subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(3); open({left!r}, 'w')"])
time.sleep(600)
