"""What is set aside is not looked at again; what is made later is still collected."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import gc
from serving.hosting.garbage import set_aside

class Node: pass

kept = [Node() for _ in range(10_000)]
garbage = Node()
garbage.itself = garbage
del garbage
set_aside()
assert gc.get_freeze_count() > 10_000
assert not any(type(item) is Node for item in gc.get_objects())
later = Node()
later.itself = later
del later
assert gc.collect() > 0
"""


def test_it_is_for_good_and_for_the_living() -> None:
    # In a process of its own: it holds for all that this one has made, too.
    subprocess.run([sys.executable, "-c", CODE], check=True)
