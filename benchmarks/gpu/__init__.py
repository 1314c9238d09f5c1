"""`make gpu`: on a machine with a card, everything that only a card can prove or measure, in one run of minutes.

A parent process (`__main__`) goes through the stages, the most important first, each within a limit of its own. What
touches the card runs in child processes, so that one that dies takes one row with it. Every row is appended to a
journal as it is made; the results of the card, benchmarks/results/CARD.json and CARD.md, are made from that.
"""
