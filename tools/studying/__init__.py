"""The parts of tools/study.py: its file, its numbers, its verdicts, its page."""
