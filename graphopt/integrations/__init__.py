"""graphopt as a part of other tools' pipelines; each module here imports the tool that it is for."""
