"""How many threads a call may use: ``set_num_threads``, ``get_num_threads``, FASTLSTM_NUM_THREADS. The threads: pyx/pool.c."""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from .. import _core


def set_num_threads(threads: SupportsIndex | str) -> None:
    """Lets every call of a recurrent layer from now on use up to ``threads`` threads, the calling one among them; 1 by default.

    ``threads``: a count of at least 1, or "all": the processors that this process may use (see ``usable_cpus``). A call takes as
    many as find enough to do, so that small ones stay on one thread; results have the same bits at any number. Where several
    Python threads call at once, one of them has the threads and the others run alone. Waits for a call that has them. Counts
    above what a build can use (256; 1 on Windows) mean that. TypeError for anything but an integer, bool included; ValueError
    for a count below 1 or another word.
    """
    _core.set_num_threads(min(_count_of(threads), _core.max_threads()))


def get_num_threads() -> int:
    """How many threads a call may use."""
    return _core.num_threads()


def usable_cpus() -> int:
    """Processors that this process may run on, as its affinity and the CPU quotas of its cgroups (v1, v2) have it; at least 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, math.floor(cgroup_quota())))


def cgroup_quota(own: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")) -> float:
    """The least quota, in CPUs, of this process' cgroups and those above them; without a limit 2**31."""
    least = float(2**31)
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return least
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for top in (mounts, *(mounts / name for name in (controllers, "cpu") if controllers)):
            # Inside a container the path may be the host's: then the folder of the mount itself is the container's.
            folder = top / path.lstrip("/")
            for place in (folder, *folder.parents):
                least = min(least, _quota_of(place))
                if place == top:
                    break
    return least


def _quota_of(folder: Path) -> float:
    """The CPU quota of one cgroup's folder: cpu.max of v2, cpu.cfs_quota_us and cpu.cfs_period_us of v1."""
    unlimited = float(2**31)
    try:
        quota, period = (folder / "cpu.max").read_text("utf-8").split()
    except OSError:
        try:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text("utf-8").strip() for name in ("quota", "period"))
        except OSError:
            return unlimited
    return int(quota) / int(period) if quota not in ("max", "-1") else unlimited


def _count_of(threads: SupportsIndex | str) -> int:
    if isinstance(threads, str):
        if threads != "all":
            raise ValueError(f"num_threads: expected a count of at least 1 or 'all', got {threads!r}")
        return usable_cpus()
    if isinstance(threads, (bool, np.bool_)):
        raise TypeError(f"num_threads: expected an integer of at least 1 or 'all', got {threads!r}")
    try:
        count = operator.index(threads)
    except TypeError:
        raise TypeError(f"num_threads: expected an integer of at least 1 or 'all', got {threads!r}") from None
    if count < 1:
        raise ValueError(f"num_threads: expected a count of at least 1 or 'all', got {count}")
    return count


def _from_environment() -> None:
    text = os.environ.get("FASTLSTM_NUM_THREADS") or "1"
    if text != "all" and not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise ImportError(f"FASTLSTM_NUM_THREADS={text!r} is unknown. Expected a count of at least 1 or 'all'")
    set_num_threads(text if text == "all" else int(text))


_from_environment()
