"""Simulation: many processes, a store and their faults in one thread, in simulated time, repeatable from a seed."""
