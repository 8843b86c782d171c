"""Puts every MPI rank on the right cores and NUMA domain, starts it through Dragon, and proves where it is."""
