"""`python -m lyra.cli`"""

from . import main

main()
