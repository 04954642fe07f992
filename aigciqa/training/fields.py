"""What each field of a recipe means: the help of the commands' options, and the documentation of `Recipe`."""

FIELDS = {
    "name": "of the metric that comes out.",
    "reference": '``"none"``, ``"full"`` or ``"partial"``.',
    "backbone": "one of the papers' (with their feature and preprocessing) or any timm architecture.",
    "weights": (
        'what to start from: ``"pretrained"``, the ImageNet weights that the papers began from, or for '
        'another backbone those that timm has for it; a timm pretrained tag (``"resnet50.tv_in1k"``); both '
        "are fetched through the Hub; a state dict's file (.pth, .pt or .safetensors, for the timm "
        "architecture); a checkpoint (name, folder or Hub repository), of which the backbone is taken, and "
        'the head where it fits; or ``"random"``, which takes many ratings and long training.'
    ),
    "feature": '``"avg"``, ``"token"`` or ``"stages"``; None for the backbone\'s.',
    "activation": (
        '``"leaky_relu"`` for a ResNet18 or 34 with LeakyReLU in its blocks, as the code of arXiv 2404.18409 '
        "has it and `aigciqa convert` may find; None for the backbone's own."
    ),
    "hidden": "width of the head's hidden layer; None for the papers'.",
    "resize": "shorter side in pixels; None for the backbone's.",
    "crop": "side of the crop in pixels; None for the backbone's.",
    "tiles": "crops per side at native resolution, seen beside the whole picture; 0 for none.",
    "cells": "per side, that stages are pooled to, see `aigciqa.config.MetricConfig`.",
    "tile_backbone": (
        "tiles go through a network of their own, likewise; it starts from what `weights` has for it, or from "
        "the backbone's own stages."
    ),
    "mean": "of normalisation; None for ImageNet's.",
    "std": "of normalisation; None for ImageNet's.",
    "dimensions": "what to predict. A data set may lack some.",
    "score_range": (
        "scale of the scores, such as ``0,10``; labels of every data set are mapped to it. Where a recipe "
        "does not say it, and all its data sets say the same one (`--range`), it is that; else 0 to 5."
    ),
    "bounded": "keep scores within `score_range`, see `aigciqa.config.MetricConfig`.",
    "labels": "who gave the labels, in words, for the model card.",
    "license": "of the checkpoint, for its model card.",
    "data": "the data sets, learned from together.",
    "split": (
        '``"group"`` (no prompt or reference on both sides), ``"paper"`` (every fourth row is test, prompts '
        'on both sides), ``"own"`` (the manifest\'s), or a file that an earlier run saved.'
    ),
    "test": 'part of the groups held out, for ``"group"``; 0 to learn from everything and test nothing.',
    "folds": "cut into so many folds instead; 0 for none.",
    "fold": "which of them is the test side.",
    "validation": "part of the training side's groups to select the epoch by; 0 for none.",
    "select": '``"validation"``, ``"last"``, or ``"test"`` (the papers\' protocol: optimistic).',
    "epochs": (
        "passes over the training side; with ``per_batch`` over the first data set that is learned from, "
        "while the others come as often as that takes."
    ),
    "batch_size": "rows per step, over all processes together; with ``per_batch`` the sum of these instead.",
    "batch_by": (
        '``"row"``; ``"group"`` or ``"reference"`` to put rows of one group or one reference into one batch: '
        "a reference is then computed once for all of them, and ``rank`` finds its pairs."
    ),
    "lr": "of the head and the backbone.",
    "head_lr": "of the head; None for `lr`.",
    "dropout": "of the head's inputs, in training.",
    "weight_decay": "of Adam (added to the gradient) or AdamW.",
    "optimizer": '``"adam"`` (the papers\') or ``"adamw"``.',
    "schedule": '``"constant"`` or ``"cosine"``.',
    "warmup": "epochs over which the rate grows from 0.",
    "loss": "weight by term, see `aigciqa.training.losses.combined`.",
    "margin": "of the ``rank`` term, on the scale of the scores.",
    "rank_within": (
        '``"set"`` to rank rows of a data set with each other, ``"group"`` only those of a group, '
        '``"reference"`` only those that share a reference (whether or not the model sees it).'
    ),
    "frozen": (
        "leave the backbone as it is: what the head sees of each row is computed once, without augmentation, "
        "and a new head learns from that in seconds per epoch, its inputs normalised."
    ),
    "directions": (
        "with `frozen`, the head learns from so many principal directions of its inputs, which is faster and "
        "keeps to what pictures really differ in; 0 for the inputs as they are."
    ),
    "statistics_only": (
        "with `frozen` and `tiles`, the head learns from natural scene statistics and nothing else that the "
        "network gives."
    ),
    "members": "with `frozen`, so many independent heads learn, each of `hidden` / `members`, and are averaged.",
    "freeze": "epochs in which only the head learns, though the whole network is computed.",
    "freeze_norm": "keep batch normalisation at its pretrained statistics.",
    "ema": "decay of the weights' moving average per step; 0 for none.",
    "clip": "largest norm of the gradient; 0 for none.",
    "accumulate": "batches per step of the optimizer.",
    "precision": '``"no"``, ``"fp16"`` or ``"bf16"``.',
    "patience": "stop after so many epochs without a better selection; 0 for never.",
    "augment": "random crops and flips in training.",
    "half": "write the checkpoint in half precision, at half the size.",
    "cache": (
        "folder for decoded pictures, or for the head's inputs, that several runs may share one after "
        "another; None for one in the run's folder, which is removed in the end."
    ),
    "seed": "of everything random.",
}
