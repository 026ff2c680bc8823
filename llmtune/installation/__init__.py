"""Checks of the installation: is the package llmtune this project's, and complete?"""
