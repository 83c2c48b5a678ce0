#!/bin/sh
# Stands in for the interpreter of a process that the trainer starts by multiprocessing, and has the kernel kill it
# when the trainer is gone, however that ended. The signal outlasts exec; who comes too late to ask for it ends.
exec "$TURNWISE_PYTHON" -I -S -c '
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(os.environ["TURNWISE_TRAINER"]):
    os.execv(sys.argv[1], sys.argv[1:])
' "$TURNWISE_PYTHON" "$@"
