"""`python -m fastgw`: the same as the `fastgw` command, for where scripts are not on the path."""

from fastgw.cli import main

main()
