# What graphopt/integrations/olive.py uses of Olive 0.13, which most of its own annotations don't say.
