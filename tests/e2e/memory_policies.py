"""Sets memory policies as the shim does, one after the other, and says what the kernel makes of each.

    python memory_policies.py POLICY...

A line of JSON for each: the policy, what get_mempolicy(2) says of it, and what /proc/PID/numa_maps says.
"""

from __future__ import annotations

import json
import os
import sys

from rankmap.runtime import shim
from rankmap.runtime.memory_policies import policy_text
from rankmap.runtime.observer import memory_policy_of

for policy in sys.argv[1:]:
    shim.set_memory(policy)
    sys.stdout.write(json.dumps([policy, policy_text(shim.memory()), memory_policy_of(os.getpid())]) + "\n")
