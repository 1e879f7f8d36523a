"""What a run leaves behind and shows: its folder, live progress, metrics for Prometheus, the report, comparisons.

Invariants: a folder holds one run, and a second run is refused before anything starts; rows are written one by one, so
a killed run loses none; the report needs only the folder and no network. Nothing here changes a run: `RunFolder`,
`Progress` and `Telemetry` consume its events (`controller/events.py`), and everything else reads files.
"""
