"""The suites: one subcommand each, which measures one side and judges it against its targets.

What enters: a scene with a broker, and options. What leaves: findings, which the command line turns
into tables and files. A suite must never print, nor write anywhere but into the scene's folder.
"""
