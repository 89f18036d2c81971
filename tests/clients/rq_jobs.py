"""RQ through the proxy: `rq_jobs.py PORT`.

1,000 jobs are put into a queue, one after the other, while eight workers, processes of their own, take them. `a third` and
`two thirds` are said when so many have been added, and nothing waits then: what is done to the cluster happens in the midst of
the work. `done` on standard input says that it was done.
"""

import logging
import signal
import subprocess
import sys
import threading
import time

import redis
from rq import Queue, SimpleWorker, get_current_job
from rq.registry import FailedJobRegistry, FinishedJobRegistry

JOBS, WORKERS, NAME = 1000, 8, "work"


def connection(port):
    # Longer than the proxy may hold an answer: a library that loses patience sends its command again.
    return redis.Redis(host="127.0.0.1", port=port, socket_timeout=30)


def double(n):
    """A job: it counts that it was run, and returns something."""
    job = get_current_job()
    job.connection.hincrby("runs", job.id, 1)
    return n * 2


def work(port):
    """A worker, until it is told to stop. What it has to say beside that all is well goes to standard error."""
    logging.basicConfig(level=logging.WARNING)
    SimpleWorker([NAME], connection=connection(port)).work(logging_level="WARNING")


def add_jobs(queue):
    """Returns an error if what was to happen in the midst of it did not."""
    added, wait, during = 0, [("a third", JOBS // 3), ("two thirds", 2 * JOBS // 3)], []

    def ask():
        for line, size in wait:
            while added < size:
                time.sleep(0.001)
            print(line, flush=True)
            during.append((sys.stdin.readline(), added))

    asker = threading.Thread(target=ask)
    asker.start()
    for n in range(JOBS):
        queue.enqueue(double, n, job_id=f"job-{n}", result_ttl=3600)
        added += 1
    asker.join()
    if any(answer != "done\n" or size == JOBS for answer, size in during):
        raise AssertionError(f"told {during} while {JOBS} jobs were added")


def over(queue):
    return len(FinishedJobRegistry(queue=queue)) + len(FailedJobRegistry(queue=queue))


def main(port):
    r = connection(port)
    queue = Queue(NAME, connection=r)
    workers = [subprocess.Popen([sys.executable, "-B", __file__, str(port), "worker"]) for _ in range(WORKERS)]
    try:
        add_jobs(queue)
        # A job on its way from the queue to those that are started is in neither: only the end counts.
        end = time.monotonic() + 120
        while over(queue) < JOBS and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        codes = [worker.wait() for worker in workers]
    finished = FinishedJobRegistry(queue=queue).get_job_ids()
    failed = FailedJobRegistry(queue=queue).get_job_ids()
    wanted = {f"job-{n}" for n in range(JOBS)}
    if set(finished) != wanted or failed:
        lost = sorted(wanted - set(finished))
        raise AssertionError(f"{len(lost)} lost: {lost[:20]}; {len(failed)} failed: {failed[:20]}")
    for n in range(JOBS):
        returned = queue.fetch_job(f"job-{n}").return_value()
        if returned != n * 2:
            raise AssertionError(f"job-{n} returned {returned}")
    runs = [int(count) for count in r.hgetall("runs").values()]
    print(f"{len(finished)} completed")
    print(f"{sum(runs) - JOBS} processed again")
    print(f"{sum(code != 0 for code in codes)} errors")


if __name__ == "__main__":
    # Jobs are found by this module's name.
    sys.modules["rq_jobs"] = sys.modules["__main__"]
    double.__module__ = "rq_jobs"
    if len(sys.argv) > 2:
        work(int(sys.argv[1]))
    else:
        main(int(sys.argv[1]))
