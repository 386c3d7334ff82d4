"""What training stages give the trainer. Apart from the stages, for these modules import torch."""
