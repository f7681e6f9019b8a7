"""`python -m tvm_iovt` is the `tvm-iovt` command."""

from tvm_iovt.cli.main import main

main()
