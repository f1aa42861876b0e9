"""python -m nrm_keras"""

import os
import sys

# TensorFlow's start-up notes would bury what a verb has to say
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from nrm_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
