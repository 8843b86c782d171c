"""How ranks are put on nodes and on a node's cores: one file per rule."""
