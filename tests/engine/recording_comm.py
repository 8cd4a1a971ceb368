"""Collectives of one of two ranks that communicate with nobody and write down what is sent."""

import torch


class Recording:
    def __init__(self, world_size=2, rank=0):
        self.world_size, self.rank, self.device = world_size, rank, torch.device("cpu")
        self.sent, self.waited = [], 0

    def start_sum_to(self, tensor, owner):
        self.sent.append((owner, tensor.clone()))
        return self

    def wait(self):
        self.waited += 1
