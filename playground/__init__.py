"""A laboratory for the framework: `lab` holds the logic, `view` shows it in JupyterLab, `still` without a kernel."""
