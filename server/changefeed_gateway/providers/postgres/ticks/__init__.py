"""Ticks of the feeds: when they are made, which of them this process knows, and who hears of news."""
