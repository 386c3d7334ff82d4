"""kxbatch: embed corpora, whiten them, audit them for hubs; resume anything, lose nothing.

>>> import kxbatch as kx
>>> result = kx.run("jobs/corpus_audit.toml")  # doctest: +SKIP
>>> frame = kx.open("out/corpus-audit").scan()  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kxbatch.api import open, plan, run

__all__ = ["open", "plan", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the interface on first use, so that `import kxbatch` and `kxbatch --help` stay fast."""
    if name in __all__:
        from kxbatch import api

        return getattr(api, name)
    raise AttributeError(f"module 'kxbatch' has no attribute '{name}'")
