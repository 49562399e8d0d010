"""The commands of `l2gnet`."""
