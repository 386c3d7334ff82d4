"""Where units run: in this process, or on Ray. One contract for both."""

import os

# Ray prints news of the cluster on standard output, among the facts that belong there; it reads this when it is imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
