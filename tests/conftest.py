"""Set before anything imports numpy or mlx, and inherited by the programs tests start."""

import atexit
import os
import shutil
import tempfile

# Two BLAS threads on small products wait for each other more than they work when the machine is busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What tests say is kept in a home of the suite's own, which its workers inherit, and not among what the developer said.
if "GPTOSS_MAC_TESTS_HOME" not in os.environ:
    os.environ["GPTOSS_MAC_TESTS_HOME"] = tempfile.mkdtemp(prefix="gptoss-mac-tests-")
    atexit.register(shutil.rmtree, os.environ["GPTOSS_MAC_TESTS_HOME"], ignore_errors=True)
os.environ["GPTOSS_MAC_HOME"] = os.environ["GPTOSS_MAC_TESTS_HOME"]

import metal_kernels  # noqa: F401  (loads a BLAS before a test imports mlx by itself)
