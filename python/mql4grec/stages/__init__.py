"""The stages of a run: what each reads from the run's folder, which room it calls, what it leaves.

`plan` turns settings into the list of stages; `pipeline` does them.
"""

from mql4grec.stages.context import Context, Stage
from mql4grec.stages.plan import plan

__all__ = ["Context", "Stage", "plan"]
