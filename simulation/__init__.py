"""A whole cluster in virtual time: servers that fail, applications, and the core of hasql between.

    python -m simulation --seeds 5000     # plays the stories of so many seeds
    python -m simulation --seed 17        # plays one, and tells what happens in it
    python -m simulation --commits        # the same of shorter ones, which are all about commits
    python -m simulation --load           # and of those in which load control says no

Each seed is a story: applications acquire masters and replicas, write, read, hold and are cancelled
at any await, while servers are killed, frozen, promoted and rejoined. What must hold is checked at
each step and at the end. The core is the real one, monitors and all; the driver and its servers are
fakes, whose time and chance come from the story as those of the core do: so a second takes about
a millisecond, and the same seed gives the same run.

Each server has a write-ahead log, so that a crash or a promotion loses the end of it, and the ids
in it are given away again. In the stories of commits the master is lost at any step of one, once
or twice, or its answer is; what `run` has said of each unit of work is compared with the logs.
"""
