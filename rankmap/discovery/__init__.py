"""Where topologies come from: this host, a recorded hwloc XML file, a synthetic description."""
