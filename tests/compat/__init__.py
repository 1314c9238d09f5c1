"""The peers' interfaces over our ops."""
