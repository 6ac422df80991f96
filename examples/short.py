"""Arguments with which the examples take seconds: enough to see that they run, and no more."""

ARGUMENTS = {
    "determinant_squared": ["--steps-a", "4", "--steps-b", "4", "--steps-c", "4"],
    "digits_flow": ["--steps", "4", "--layers", "2", "--batch", "32"],
    "distributed": ["--quick"],
    "wave_function": ["--walkers", "40", "--steps", "3", "--measurements", "4"],
    "neo_hookean": ["--cells", "6", "3", "3", "--steps", "20"],
    "point_process": ["--steps", "4", "--batch", "10", "--images", "60"],
    "optimal_design": ["--points", "9", "--steps", "60"],
}
