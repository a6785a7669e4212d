"""A whole cluster in virtual time: failing servers, applications, and hasql's core between them.

    python -m simulation --seeds 5000     # plays the stories of that many seeds
    python -m simulation --seed 17        # plays the story of one seed, and prints its events
    python -m simulation --commits        # plays shorter stories, which are all about commits
    python -m simulation --load           # plays stories in which load control refuses acquires

Each seed is a story: applications acquire masters and replicas, write, read, hold connections and
are cancelled at any await, while servers are killed, frozen, promoted and rejoined. What must hold
is checked at each step and at the end. The core is the real one, including its monitors. The driver
and the servers are fakes. Time and chance come from the story, for the core as well as for the
fakes; so a second takes about a millisecond, and the same seed gives the same run.

Each server has a write-ahead log. A crash or a promotion loses the end of the log, and the
transaction ids in it are given to other transactions. In the stories of commits the master, or its
answer, is lost at any step of a commit, once or twice; what `run` says of each unit of work is
compared with the logs.
"""
