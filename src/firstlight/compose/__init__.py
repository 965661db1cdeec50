"""From the words of a command line to a composed config; mistakes are found before any write."""
