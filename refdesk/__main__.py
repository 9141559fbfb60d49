"""`python -m refdesk` is the command `refdesk`."""

from refdesk.app.cli import main

main(prog_name="refdesk")
