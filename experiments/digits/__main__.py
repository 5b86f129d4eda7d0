from experiments.commandline import begin_command, run_experiment

if __name__ == "__main__":
    begin_command("python -m experiments.digits")
    from experiments.digits.train import PROG, main

    run_experiment(PROG, main)
