"""Speed of the package beside plain code, as ratios timed in one run; not part of the package."""
