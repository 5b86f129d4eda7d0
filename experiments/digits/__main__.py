from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m experiments.digits")
    from experiments.commandline import run_experiment
    from experiments.digits.train import PROG, main

    run_experiment(PROG, main)
