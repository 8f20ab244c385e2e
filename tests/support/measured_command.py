"""`tocsin`, whose servers and sandboxes are forks as it is itself: `tocsin bench …` starts several."""

from support import commands
from tocsin.cli import main
from tocsin.demo import stage

stage.running = commands.running

if __name__ == "__main__":
    main()
