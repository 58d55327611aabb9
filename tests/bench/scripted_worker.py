"""A program for the harness that does what it is told. Its arguments are SECONDS and, if it is to fail, THEN.

It sleeps SECONDS for each piece of work. THEN is what becomes of the first decode: ``die``, ``crash``, ``hang``,
``error``, ``nonsense`` or ``nothing``. With ``generate`` it is the first generation that is an error.
"""

import json
import os
import signal
import sys
import time

seconds = float(sys.argv[1])
then = sys.argv[2] if len(sys.argv) > 2 else ""
for line in sys.stdin:
    question = json.loads(line)
    if question["call"] == "usage":
        print(json.dumps({"cpu": time.process_time(), "memory": 1 << 20}), flush=True)
        continue
    begin = time.perf_counter()
    time.sleep(seconds)
    answer = json.dumps({"seconds": time.perf_counter() - begin})
    if question["call"] == then == "generate":
        answer = json.dumps({"error": "no room\nfor it"})
    if question["call"] == "decode":
        match then:
            case "die":
                print("Traceback\n  a frame\nValueError: the tensor is\tmissing\n", file=sys.stderr)
                sys.exit(3)
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(1000)
            case "error":
                answer = json.dumps({"error": "no room\nfor it"})
            case "nonsense":
                answer = "42 tokens/s"
            case "nothing":
                answer = "{}"
    print(answer, flush=True)
