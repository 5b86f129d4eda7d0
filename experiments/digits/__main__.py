from experiments.commandline import quit_on_interrupt, run

if __name__ == "__main__":
    quit_on_interrupt("python -m experiments.digits")
    from experiments.digits.train import PROG, main

    run(PROG, main)
