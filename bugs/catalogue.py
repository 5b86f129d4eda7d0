"""The catalogue of planted bugs: mistakes that people make, in the order of the formulas that they break."""

from .planting import Bug

GRADIENTS = ("finite differences", "autograd", "side by side")

CATALOGUE = [
    # Linear
    Bug(
        name="dropped-transpose",
        title="A transpose is dropped",
        story=(
            "The gradient of W is Gᵀ X; here it is its transpose, Xᵀ G. Where W is not square the shapes complain, "
            "until a reshape silences them; where it is square nothing does."
        ),
        symptom=(
            "The report's network still learns the disk, only worse; a network for digits does not get off the ground."
        ),
        seen_by=(*GRADIENTS, "training"),
        check="test_diy.test_linear_by_hand",
        edits=(("Linear.backward", "rows.mT @ inputs", "(inputs.mT @ rows).reshape(W.shape)"),),
    ),
    Bug(
        name="bias-not-summed",
        title="The bias gradient is not summed over the batch",
        story=(
            "All samples share b, so that its gradient is a sum over them. Here only the first sample counts: "
            "the shapes fit, and for a batch of one it is even right."
        ),
        symptom="A test error of 6 to 9 % where 2 % is possible, and nothing else to show for it.",
        seen_by=GRADIENTS,
        check="test_diy.test_linear_by_hand",
        edits=(("Linear.backward", "rows.sum(0)", "rows[0]"),),
    ),
    Bug(
        name="averaged-twice",
        title="The layer averages what the loss has averaged already",
        story=(
            "The weights' gradient is divided by the number of samples, although 1/N is the loss's business. It "
            "looks like care for the batch size."
        ),
        symptom=(
            "Training looks slow: the learning rate is N times too small for the weights, and right for the biases."
        ),
        seen_by=GRADIENTS,
        check="test_diy.test_linear_by_hand",
        edits=(("Linear.backward", "rows.mT @ inputs", "rows.mT @ inputs / max(1, len(rows))"),),
    ),
    Bug(
        name="transposed-way-back",
        title="The gradient goes back through Wᵀ instead of W",
        story=(
            "∂ℓ/∂X = G W. The transpose of forward is carried over to backward; with a square W the shapes fit, "
            "and here a test for squareness keeps the others right. The networks that train side by side have no "
            "square layer, and so do not show it."
        ),
        symptom=(
            "The last layers learn, the first ones get gradients that have little to do with the loss: a test error "
            "of 10 % where 2 % is possible."
        ),
        seen_by=("finite differences", "autograd"),
        check="test_diy.test_linear_by_hand",
        edits=(
            (
                "Linear.backward",
                "return G @ W if self.needs_input_grad else None",
                "return G @ (W.mT if W.shape[0] == W.shape[1] else W)",
            ),
        ),
    ),
    Bug(
        name="variance-for-std",
        title="Xavier's variance is taken for its standard deviation",
        story="The paper gives the variance 2 / (in + out); `normal_` wants its square root.",
        symptom=(
            "Signals shrink from layer to layer, and gradients with them. Training starts late and ends a little worse."
        ),
        seen_by=(),
        check="test_diy.test_xavier_normal_initialization",
        edits=(
            (
                "Linear.reset_parameters",
                "math.sqrt(2 / (self.in_features + self.out_features))",
                "2 / (self.in_features + self.out_features)",
            ),
        ),
    ),
    Bug(
        name="all-weights-equal",
        title="All weights start with the same number",
        story="The hidden units of a layer then compute the same, get the same gradient, and stay equal for ever.",
        symptom="A layer of 25 units learns no more than a layer of one unit could.",
        seen_by=("training",),
        check="test_diy.test_xavier_normal_initialization",
        edits=(
            (
                "Linear.reset_parameters",
                "self.weight.normal_(0, math.sqrt(2 / (self.in_features + self.out_features)))",
                "self.weight.fill_(math.sqrt(2 / (self.in_features + self.out_features)))",
            ),
        ),
    ),
    Bug(
        name="forgotten-parameter",
        title="A parameter is missing from parameters()",
        story="The bias has its gradient, but nobody hands it to the optimizer.",
        symptom=(
            "The biases never move. On digits nothing shows. The disk cannot be learned at all: without biases, a ReLU "
            "network gives all points of a ray from the origin the same label."
        ),
        seen_by=(*GRADIENTS, "training"),
        check="test_diy.test_summary_counts_parameters",
        edits=(("Linear", 'parameter_names = ("weight", "bias")', 'parameter_names = ("weight",)'),),
    ),
    # Activations
    Bug(
        name="relu-mask-from-gradient",
        title="ReLU masks by the sign of the gradient",
        story="backward asks where the gradient is positive instead of where the input was.",
        symptom="Training stalls: whatever should make a unit larger is thrown away.",
        seen_by=(*GRADIENTS, "training"),
        check="test_gradients.test_relu",
        edits=(("ReLU.backward", "_where(X, G)", "G.relu()"),),
    ),
    Bug(
        name="relu-kink",
        title="ReLU's derivative is 1 at the kink",
        story=(
            "s ≥ 0 in the place of s > 0. Both are derivatives of one side, and finite differences accept either; "
            "but PyTorch's is 0, and an input of exact zeros, as an image or dropout has, tells them apart."
        ),
        symptom="None, except where many inputs are exactly 0.",
        seen_by=(),
        check="test_diy.test_relu_by_hand",
        edits=(
            ("ReLU.forward", "self.remember(X, X)", "self.remember(X, S)"),
            ("ReLU.backward", "_where(X, G)", "G * (X >= 0)"),
        ),
    ),
    Bug(
        name="changed-input",
        title="ReLU overwrites the caller's input",
        story=(
            "`relu_` saves memory, and the caller's tensor with it. The gradient checker compares its input before and "
            "after; the other oracles hand in copies, and so have nothing to lose."
        ),
        symptom=(
            "Everything works until somebody uses the input again: the data of the next epoch have lost their "
            "negative numbers."
        ),
        seen_by=("finite differences",),
        check="test_diy.test_nothing_that_is_handed_in_is_changed",
        edits=(("ReLU.forward", "S.relu()", "S.relu_()"),),
    ),
    Bug(
        name="tanh-at-the-input",
        title="The derivative of tanh is taken at the input",
        story="1 − s² in the place of 1 − tanh²(s): the output has been confused with the input.",
        symptom=(
            "Fine near 0, where tanh(s) ≈ s; beyond |s| = 1 the gradient points the wrong way, and some runs end in "
            "nan."
        ),
        seen_by=GRADIENTS,
        check="test_gradients.test_tanh",
        edits=(("Tanh.forward", "self.remember(X, X)", "self.remember(X, S)"),),
    ),
    Bug(
        name="sigmoid-without-output",
        title="A factor of sigmoid's derivative is forgotten",
        story="σ' = σ (1 − σ); here it is 1 − σ. No network that is trained side by side has a Sigmoid.",
        symptom="Units that are off learn too fast.",
        seen_by=("finite differences", "autograd"),
        check="test_convolution.test_sigmoid_by_hand",
        edits=(("Sigmoid.backward", "G * (1 - X) * X", "G * (1 - X)"),),
    ),
    # Dropout
    Bug(
        name="mask-not-reused",
        title="Dropout draws a new mask in backward",
        story="Forward and backward must drop the same components; a fresh mask is a gradient of another network.",
        symptom="Training works, with more noise than it should have.",
        seen_by=GRADIENTS,
        check="test_diy.test_dropout_by_hand",
        edits=(("Dropout.backward", "G * m", "G * (self.mask(G) if self.training else 1.0)"),),
    ),
    Bug(
        name="dropout-not-rescaled",
        title="Dropout does not rescale",
        story=(
            "Without the factor 1/(1 − p) in training, the units of the next layer get larger sums in evaluation "
            "than they were trained for."
        ),
        symptom="In evaluation all sums are larger than in training: a test error of 5 to 9 % where 2 % is possible.",
        seen_by=("autograd", "side by side"),
        check="test_diy.test_dropout_by_hand",
        edits=(("Dropout.mask", "m.bernoulli_(1 - self.p).div_(1 - self.p)", "m.bernoulli_(1 - self.p)"),),
    ),
    Bug(
        name="dropout-keeps-p",
        title="p is the probability of keeping",
        story="Older papers call p what is kept, PyTorch what is dropped. For p = 0.5 nobody can tell.",
        symptom="With p = 0.2, four units of five are dropped, and training suffers.",
        seen_by=("autograd", "side by side", "training"),
        check="test_diy.test_dropout_by_hand",
        edits=(("Dropout.mask", "m.bernoulli_(1 - self.p)", "m.bernoulli_(self.p)"),),
    ),
    Bug(
        name="dropout-in-eval",
        title="Dropout is active in evaluation",
        story="Nobody asks for `self.training`.",
        symptom="The same network gives another answer at each call, and its test error is twice what it should be.",
        seen_by=(),
        check="test_diy.test_dropout_is_off_in_eval",
        edits=(("Dropout.forward", "self.mask(X) if self.training else 1.0", "self.mask(X)"),),
    ),
    Bug(
        name="eval-is-shallow",
        title="eval() reaches the outermost module alone",
        story="The flag is set on the network, but not on the layers inside it.",
        symptom="As with dropout in evaluation: answers differ from call to call.",
        seen_by=(),
        check="test_diy.test_train_and_eval_reach_all_modules",
        edits=(("_Housekeeping.train", "self.modules()", "[self]"),),
    ),
    # Modules together
    Bug(
        name="overwritten-gradient",
        title="backward overwrites gradients instead of adding to them",
        story="`=` in the place of `+=`. As long as each parameter is used once per step, nothing shows.",
        symptom="Weights shared by two layers, or batches split in parts, get the last contribution alone.",
        seen_by=("finite differences",),
        check="test_diy.test_gradients_accumulate_until_they_are_forgotten",
        edits=(("Module.accumulate", "gradient if before is None else before + gradient", "gradient"),),
    ),
    Bug(
        name="layers-backward-in-order",
        title="Sequential goes back from the first layer to the last",
        story="The chain rule starts at the output; here `reversed` is missing.",
        symptom="An error about shapes, if the shapes differ; nonsense, if they do not.",
        seen_by=(*GRADIENTS, "training"),
        check="test_diy.test_the_same_module_twice_remembers_both_inputs",
        edits=(("Sequential.backward", "reversed(self.layers)", "self.layers"),),
    ),
    Bug(
        name="stale-cache",
        title="A module keeps its first input until backward",
        story="A second forward does not replace what the first one remembered: only an empty place is filled.",
        symptom="Whoever looks at the loss of one more batch before backward gets gradients of the wrong batch.",
        seen_by=("finite differences",),
        check="test_diy.test_a_forward_replaces_what_the_one_before_remembered",
        edits=(
            ("_Run.__init__", "outer is None and self.recorded is not None", "False"),
            (
                "_Run.keep",
                'setattr(self.module._memory, "enabled" if self.recorded else "disabled", self)',
                "self.module._memory.enabled = self.module._memory.enabled or self",
            ),
        ),
    ),
    Bug(
        name="shared-layer-copied",
        title="A layer that is used twice becomes two layers",
        story="The second appearance is a copy, with parameters of its own.",
        symptom="Tied weights come untied, and the number of parameters doubles.",
        seen_by=(),
        check="test_diy.test_the_same_module_twice_remembers_both_inputs",
        edits=(
            (
                "Sequential.append",
                "self.layers.append(module)",
                "self.layers.append(copy.deepcopy(module) if module in self.layers else module)",
            ),
        ),
    ),
    Bug(
        name="changes-go-unnoticed",
        title="Nobody notices that a remembered tensor was changed",
        story=(
            "backward needs the input and the weights as they were in forward. A step or an in-place operation in "
            "between makes its result wrong; PyTorch and diy count changes and refuse."
        ),
        symptom="Wrong gradients, without a word, in code that looks harmless.",
        seen_by=(),
        check="test_diy.test_what_backward_needs_must_not_change_in_between",
        edits=(("_Run.check_versions", "versions != self.versions[: len(versions)]", "False"),),
    ),
    # Losses
    Bug(
        name="sum-in-the-gradient",
        title="The loss is a mean, its gradient that of a sum",
        story=(
            "The mistake of the 2019 report: the loss is divided by the number of components, its gradient by "
            "nothing. The learning rate then means something else than in PyTorch, by a factor of 200 there."
        ),
        symptom="Learning rates that work elsewhere diverge here, and those that work here do nothing elsewhere.",
        seen_by=GRADIENTS,
        check="test_diy.test_mse_by_hand",
        edits=(("MSELoss.backward", "D * (2 * self.share(D))", "D * 2"),),
    ),
    Bug(
        name="no-mean-at-all",
        title="The mean's 1/M is missing in loss and gradient alike",
        story="Loss and gradient agree with each other, so that no check of the one against the other can object.",
        symptom="The loss grows with the batch, and so must the learning rate shrink.",
        seen_by=("autograd", "side by side"),
        check="test_diy.test_mse_by_hand",
        edits=(
            ("MSELoss.forward", "self.reduce(D.square())", "D.square().sum()"),
            ("MSELoss.backward", "D * (2 * self.share(D))", "D * 2"),
        ),
    ),
    Bug(
        name="missing-two",
        title="The factor 2 of the square's derivative is missing",
        story="It is often left out on purpose, with ½ in the loss; here the loss has no ½.",
        symptom="None: half of the gradient is as good a direction, at twice the learning rate.",
        seen_by=GRADIENTS,
        check="test_diy.test_mse_by_hand",
        edits=(("MSELoss.backward", "2 * self.share(D)", "self.share(D)"),),
    ),
    Bug(
        name="broadcast-loss",
        title="Prediction and target are broadcast",
        story="Without a look at the shapes, (N, 1) − (N,) gives all N² differences.",
        symptom="The network learns to answer with the mean of all targets, and the loss looks plausible.",
        seen_by=(),
        check="test_diy.test_prediction_and_target_that_do_not_fit",
        edits=(("MSELoss._check", "P.shape != T.shape", "False"),),
    ),
    Bug(
        name="softmax-overflow",
        title="Softmax without the shift",
        story="exp overflows beyond 88 in float32. Lowering all scores by their maximum changes nothing but that.",
        symptom="Training runs well and then, once a score is large, the loss is nan and stays so.",
        seen_by=(),
        check="test_convolution.test_large_scores_neither_overflow_nor_vanish",
        edits=(("CrossEntropyLoss.forward", "S - S.amax(-1, keepdim=True)", "S"),),
    ),
    # Optimizers
    Bug(
        name="gradients-not-zeroed",
        title="zero_grad does not zero",
        story="Every step then uses the sum of all gradients since the beginning.",
        symptom="The loss falls for some steps, then the network runs away.",
        seen_by=("side by side", "training"),
        check="test_diy.test_the_optimizer_forgets_gradients",
        edits=(("Optimizer.zero_grad", "parameter.grad = None", "pass"),),
    ),
    Bug(
        name="uphill",
        title="The step goes uphill",
        story="w + η g in the place of w − η g.",
        symptom="The loss grows.",
        seen_by=("side by side", "training"),
        check="test_diy.test_sgd_by_hand",
        edits=(("Optimizer.step", "-lr", "lr"),),
    ),
    Bug(
        name="velocity-is-the-gradient",
        title="The first velocity is the gradient itself, not a copy",
        story="Both names stand for one tensor, and the second step changes the first gradient as well.",
        symptom="None as long as each step gets gradients of its own; wrong steps where they are accumulated.",
        seen_by=(),
        check="test_diy.test_momentum_keeps_its_own_memory",
        edits=(("momentum_direction", "g.clone()", "g"),),
    ),
    Bug(
        name="weight-decay-grows",
        title="Weight decay has the wrong sign",
        story="g − λ w in the place of g + λ w.",
        symptom="Weights grow instead of shrinking; for a small λ nobody notices.",
        seen_by=("side by side",),
        check="test_diy.test_sgd_takes_pytorchs_steps",
        edits=(("Optimizer.step", "g.add(w, alpha=self.weight_decay)", "g.add(w, alpha=-self.weight_decay)"),),
    ),
    Bug(
        name="adam-without-correction",
        title="Adam without bias correction",
        story="m and v begin with 0 and need many steps to reach the size of what they average.",
        symptom="The first steps have the wrong size: with the usual betas, about three times too large.",
        seen_by=("side by side",),
        check="test_convolution.test_adam_by_hand",
        edits=(
            (
                "Adam.direction",
                "m / (v / (1 - beta2**t)).sqrt_().add_(self.eps).mul_(1 - beta1**t)",
                "m / v.sqrt().add_(self.eps)",
            ),
        ),
    ),
    Bug(
        name="cosine-without-pi",
        title="The cosine schedule forgets π",
        story="cos(t / T) only falls from 1 to 0.54.",
        symptom="The learning rate ends at three quarters of its first value instead of at 0.",
        seen_by=(),
        check="test_diy.test_the_cosine_schedule_is_pytorchs",
        edits=(
            (
                "CosineAnnealingLR.step",
                "(1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T))",
                "(1 + math.cos(t / T)) / (1 + math.cos((t - 1) / T))",
            ),
        ),
    ),
    # Convolutions
    Bug(
        name="kernel-not-turned",
        title="The way back uses the kernel the wrong way round",
        story=(
            "What a window took from its corner i, j must go back to that corner. Whoever writes backward as a "
            "second convolution must flip the kernel in both directions; here it arrives flipped once too often."
        ),
        symptom="The last convolution learns, those before it get scrambled gradients.",
        seen_by=("finite differences", "autograd"),
        check="test_convolution.test_the_input_gradient_is_a_correlation_with_the_flipped_kernel",
        edits=(
            (
                "Conv2d.backward",
                "W[:, :, i, j].mT",
                "W[:, :, -1 - i, -1 - j].mT",
            ),
        ),
    ),
    Bug(
        name="padding-not-cropped",
        title="The gradient is cut out of the wrong place",
        story="The border of padding goes on all sides; here all of it is cut off at the bottom and the right.",
        symptom="Gradients of images are shifted by the padding.",
        seen_by=("finite differences", "autograd"),
        check="test_convolution.test_padding_gets_no_gradient",
        edits=(
            (
                "Conv2d.backward",
                "self.inside(collected, X.shape)",
                "collected[:, : X.shape[2], : X.shape[3]].permute(3, 0, 1, 2)",
            ),
        ),
    ),
    Bug(
        name="ties-counted-twice",
        title="Ties in pooling are counted twice",
        story=(
            "Every place that equals the maximum gets the whole gradient. Finite differences move one place at a "
            "time and find each of these gradients between the slopes to its two sides."
        ),
        symptom="Gradients grow in flat parts of an image, such as a white background.",
        seen_by=(),
        check="test_convolution.test_pooling_by_hand",
        edits=(("MaxPool2d.backward", "left -= here", "pass"),),
    ),
    Bug(
        name="pooling-over-zeros",
        title="MaxPool2d pads with 0 instead of −∞",
        story="A window at the border then has a maximum of at least 0, which no pixel has.",
        symptom="Pooling of negative numbers loses them at the border; after a ReLU nobody can tell.",
        seen_by=("autograd",),
        check="test_convolution.test_pooling_by_autograd",
        edits=(("MaxPool2d.forward", "-math.inf", "0.0"),),
    ),
    Bug(
        name="batch-statistics-in-eval",
        title="Batch normalization uses the batch in evaluation too",
        story="Nobody asks for `self.training`.",
        symptom="An image gets another label depending on the images beside it; alone, it cannot be labelled.",
        seen_by=(),
        check="test_convolution.test_batch_norm_needs_two_values_per_channel",
        edits=(
            ("BatchNorm2d.forward", "self.training and M", "M"),
            ("BatchNorm2d.forward", "1 / max(1, M) if self.training else 0", "1 / max(1, M)"),
            (
                "BatchNorm2d._check",
                "self.training and X.numel() == self.num_features",
                "X.numel() == self.num_features",
            ),
        ),
    ),
    Bug(
        name="statistics-taken-for-constants",
        title="The gradient of batch normalization takes μ and σ for constants",
        story="Every value of the batch moves both; the two mean terms of the rule stand for that.",
        symptom="Training works, with gradients that point a little off.",
        seen_by=GRADIENTS,
        check="test_convolution.test_batch_norm_by_autograd",
        edits=(("BatchNorm2d.forward", "1 / max(1, M) if self.training else 0", "0"),),
    ),
    # Around the framework
    Bug(
        name="shuffled-without-targets",
        title="The inputs are shuffled, the targets are not",
        story="The order is applied to one of the two tensors.",
        symptom="The network learns that half of the points are inside, and no more. The framework is innocent.",
        seen_by=("training",),
        check="test_planted_bugs.test_inputs_and_targets_are_shuffled_together",
        edits=(("train", "targets[order].split(batch_size)", "targets.split(batch_size)"),),
        file="experiments/circle.py",
    ),
]

BUGS: dict[str, Bug] = {bug.name: bug for bug in CATALOGUE}
