"""What leaves rankmap as text: topologies and plans for people and for programs."""
