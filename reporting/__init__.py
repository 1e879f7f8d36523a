"""What a run leaves behind and shows: its folder, live progress, TensorBoard events, the report, figures.

Invariants: a folder holds one run, and a second one is refused before anything starts; rows are appended and flushed
one by one, so that a killed run loses none that was written; the report needs the folder alone and no network.
"""

from reporting.progress import Progress
from reporting.run_folder import RunFolder

__all__ = ["Progress", "RunFolder"]
