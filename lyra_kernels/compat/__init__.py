"""The peers' interfaces over our ops: one import line is the whole port."""
