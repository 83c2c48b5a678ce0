#!/bin/sh
# Stands in for the interpreter of a process that the trainer starts by multiprocessing, and has the kernel kill it
# when the trainer is gone, however that ended: the wish outlasts exec. Who comes too late for it ends by itself.
# Its session is its own, since signals to the trainer's group are for the trainer, which then ends it.
exec "$TURNWISE_PYTHON" -I -S -c '
import ctypes, os, signal, sys
os.setsid()
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(os.environ["TURNWISE_TRAINER"]):
    os.execv(sys.argv[1], sys.argv[1:])
' "$TURNWISE_PYTHON" "$@"
