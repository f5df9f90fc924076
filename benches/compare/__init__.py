"""bireme beside its peers: same work, checked values, fresh processes, interleaved, ratios printed.

``python -m benches.compare`` runs every row, prints a table and writes ``BENCHMARKS.md``.

What lives here
---------------
``model``       a row (`Workload`), what it must reach (`Bar`), how samples are summed up (`Summary`)
``peers``       every contender behind one small interface
``workloads/``  one file a row: its text, contenders, bars, and the function that measures it
``programs``    user scripts measured from outside; ``memory``: PSS; ``cpu``: checkable CPU work
``measure``     the process in which one contender is measured once
``harness``     starts those processes in rotated order and collects what they report
``limits``      what this machine can do at best: copies, wake-ups, pickling; ``machine``: which it is
``report``      the table on the terminal and ``BENCHMARKS.md``

A new row is a new file in ``workloads/`` and its name in `workloads.ROWS`.
"""
