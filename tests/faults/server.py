"""Makes trials on demand; run by `test_local_faults` as a process of its own, because forks want a parent of few threads.

usage: python -m faults.server FOLDER
reads one trial a line, {"kind": ..., "number": ..., "seed": ...}, and answers each with its outcome
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

from faults.kinds import KINDS
from faults.trials import Laboratory


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed on the way is no answer
    home = Path(sys.argv[1])
    home.mkdir(parents=True)
    sys.path.insert(0, str(home))
    laboratory = Laboratory(home)
    gc.freeze()  # children need not copy the pages that a collection would touch
    print(json.dumps({"calls": laboratory.calls, "seconds": laboratory.seconds}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        outcome = laboratory.trial(KINDS[asked["kind"]], **asked)
        print(json.dumps(outcome.as_json()), file=answers, flush=True)


if __name__ == "__main__":
    main()
