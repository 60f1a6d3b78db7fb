"""One thread of torch in every test, whichever runs first.

Any test that starts a run sets it for the whole process anyway. Models of tests are too small to
gain by a second one, which waits in a loop: two took twice the CPU seconds, and on a busy machine
more time as well.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
