"""`python -m l2gnet_core` is `l2gnet`."""

from l2gnet_core.cli import main

main()
