"""What is done with a world model: imagine, plan, learn an actor and a critic, act, and dream as an environment."""
