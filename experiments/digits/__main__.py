from experiments.commandline import quit_on_interrupt, run_command

if __name__ == "__main__":
    quit_on_interrupt("python -m experiments.digits")
    from experiments.digits.train import PROG, main

    run_command(PROG, main)
